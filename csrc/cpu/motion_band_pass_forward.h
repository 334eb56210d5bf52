// Forward of motion_band_pass, and the plane that the spatial filter goes over; the idea is in motion_band_pass.cpp.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "cpu/motion_band_pass_pixels.h"

namespace vidops {

// A clip's memory.
template <class T>
struct View {
  T* data;
  Clip shape;
  T* frame(int64_t n, int64_t c, int64_t t) const { return data + n * shape.sN + c * shape.sC + t * shape.sT; }
};

// The three frames of a result, combined by the temporal taps and padded by mirrored pixels, row by row.
template <class T, Walk kWalk>
struct Combined {
  using A = acc_t<T>;
  using P = Pixels<T, kWalk>;
  P pixels;
  const T* frames[3];
  Vec<T> taps[3];
  int64_t H, W, reach, sP;
  A* plane;
  int64_t step;

  Combined(const BandPass& call, const PlaceTaps<T, kWalk>& place_taps, const View<T>& x, int64_t n, int64_t place,
           int64_t t, A* plane, int64_t step)
      : pixels{std::min(P::size, x.shape.C - place * P::size)},
        H(x.shape.H),
        W(x.shape.W),
        reach(call.reach),
        sP(x.shape.sP),
        plane(plane),
        step(step) {
    for (int64_t j = 0; j < 3; ++j) {
      frames[j] = x.frame(n, place * P::size, call.frame(t, j));
      taps[j] = place_taps.in_time(place, j);
    }
  }

  // Row i of the padded plane. What follows it to the end of the step stays zero.
  void fill(int64_t i) const {
    const int64_t first = mirrored(i - reach, H) * W * sP;
    A* row = P::at(plane, i * step);
    A* inside = P::at(row, reach);
    pixels.each(W, [&](auto lanes, int64_t p, int64_t s) __attribute__((always_inline)) {
      store(inside + s, taps[0] * lanes.get(frames[0] + first, p, sP) + taps[1] * lanes.get(frames[1] + first, p, sP) +
                            taps[2] * lanes.get(frames[2] + first, p, sP));
    });
    for (int64_t v = 1; v <= reach; ++v) {
      P::copy(P::at(row, reach - v), P::at(row, reach + v));
      P::copy(P::at(row, reach + W - 1 + v), P::at(row, reach + W - 1 - v));
    }
    if constexpr (kWalk != Walk::kLanes) std::fill(row + W + 2 * reach, row + step, A(0));
  }
};

// Whether a result is worth streaming, and all of its vectors are aligned in bands of 16 rows.
template <class T, Walk kWalk>
bool can_stream(const View<T>& y) {
  const Clip& c = y.shape;
  if (!std::is_same_v<T, acc_t<T>> || kWalk == Walk::kGather) return false;
  if (c.numel() * static_cast<int64_t>(sizeof(T)) < kStreamBytes) return false;
  return reinterpret_cast<uintptr_t>(y.data) % kVectorBytes == 0 &&
         (kWalk == Walk::kLanes ? c.C : c.P) % kLanes<T> == 0;
}

// One result frame of one place.
template <class T, Walk kWalk, bool kStream>
void forward_frame(const Combined<T, kWalk>& z, const acc_t<T>* taps, int64_t k, int64_t band, acc_t<T>* rows, T* y,
                   int64_t sP, T* quiet, int64_t quiet_sP) {
  constexpr int64_t size = Pixels<T, kWalk>::size;
  const Vec<T> third = broadcast<Vec<T>>(acc_t<T>(1) / 3);
  for (int64_t i = 0, filled = 0; i < z.H; i += band) {
    const int64_t count = std::min(band, z.H - i);
    for (; filled < i + count + 2 * z.reach; ++filled) z.fill(filled);
    convolve<acc_t<T>, kWalk == Walk::kLanes>(z.plane + i * z.step * size, z.step, taps, k, count, z.W, rows, z.W);
    const int64_t first = i * z.W;
    z.pixels.each(count * z.W, [&](auto lanes, int64_t p, int64_t s) __attribute__((always_inline)) {
      const Vec<T> busy = load(rows + s);
      lanes.template put<kStream>(y + first * sP, p, sP, busy);
      if (!quiet) return;
      const auto frame = [&](int j) { return lanes.get(z.frames[j] + first * z.sP, p, z.sP); };
      const Vec<T> mean = (frame(0) + frame(1) + frame(2)) * third;
      lanes.template put<kStream>(quiet + first * quiet_sP, p, quiet_sP, mean - busy);
    });
  }
}

template <class T, Walk kWalk, bool kStream>
void forward_frames(const BandPass& call, const PlaceTaps<T, kWalk>& taps, const View<T>& x, const View<T>& y,
                    const std::optional<View<T>>& quiet) {
  using A = acc_t<T>;
  constexpr int64_t size = Pixels<T, kWalk>::size;
  const Clip &cx = x.shape, &cy = y.shape;
  const int64_t places = (cx.C + size - 1) / size, frames = call.frames_out;
  const int64_t step = Pixels<T, kWalk>::step(cx.W, call.taps), band = kWalk == Walk::kLanes ? 8 : 16;
  const int64_t grain = (int64_t{256} << 10) / (cx.P * size * (call.taps * call.taps + 8)) + 1;
  torch::stable::parallel_for(0, cx.N * places * frames, grain, [&](int64_t begin, int64_t end) {
    const Buffer<A> plane((cx.H + 2 * call.reach) * step * size), rows(std::min(band, cx.H) * cx.W * size);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (places * frames), place = item / frames % places, t = item % frames, c = place * size;
      const Combined<T, kWalk> z(call, taps, x, n, place, t, plane.get(), step);
      forward_frame<T, kWalk, kStream>(z, taps.of(place), call.taps, band, rows.get(), y.frame(n, c, t), cy.sP,
                                       quiet ? quiet->frame(n, c, t) : nullptr, quiet ? quiet->shape.sP : 0);
    }
    if (kStream) stream_fence();
  });
}

template <class T, Walk kWalk>
void band_pass_forward(const BandPass& call, const PlaceTaps<T, kWalk>& taps, const View<T>& x, const View<T>& y,
                       const std::optional<View<T>>& quiet) {
  const bool streamed = can_stream<T, kWalk>(y) && (!quiet || can_stream<T, kWalk>(*quiet));
  (streamed ? forward_frames<T, kWalk, true> : forward_frames<T, kWalk, false>)(call, taps, x, y, quiet);
}

}  // namespace vidops
