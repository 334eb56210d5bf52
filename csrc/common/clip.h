// How a clip (N, C, T, H, W) lies in memory, and the layout its results get.
//
// Three layouts are native: NCTHW, NTCHW (a 2-D backbone's output viewed as a clip) and NTHWC (channels last).
// Kernels see positions P = H*W as one axis with one step, so the first two are the same kernel with other
// strides ("planar": neighbouring positions are adjacent) and the third is its own ("channels last").
// vidops/ops/layouts.py states the same rule for fake tensors; opcheck compares the two.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

namespace vidops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum class Layout { kNCTHW, kNTCHW, kNTHWC };

struct Clip {
  int64_t N, C, T, H, W, P;
  int64_t sN, sC, sT, sP;  // elements from one clip, channel, frame, position to the next
  Layout layout;
  bool native;  // positions can be walked with the one step sP, and the fast axis has step 1

  // Neighbouring channels are adjacent. With one position NTCHW is channels last as well.
  bool channels_last() const { return C > 1 && sC == 1 && layout != Layout::kNCTHW; }
  int64_t numel() const { return N * C * T * P; }
};

inline Clip describe(const Tensor& x) {
  Clip c;
  c.N = x.size(0), c.C = x.size(1), c.T = x.size(2), c.H = x.size(3), c.W = x.size(4);
  c.P = c.H * c.W;
  c.sN = x.stride(0), c.sC = x.stride(1), c.sT = x.stride(2);
  const int64_t sH = x.stride(3), sW = x.stride(4);
  c.sP = c.P <= 1 ? 1 : c.W > 1 ? sW : sH;
  const bool uniform = c.P <= 1 || c.W <= 1 || c.H <= 1 || sH == c.W * sW;
  if (c.C > 1 && c.sC == 1 && c.P > 1) {
    c.layout = Layout::kNTHWC;
    c.native = uniform;
  } else {
    c.layout = c.C > 1 && c.T > 1 && c.sT > c.sC ? Layout::kNTCHW : Layout::kNCTHW;
    c.native = uniform && c.sP == 1;
  }
  return c;
}

// An uninitialised dense clip of T frames, otherwise shaped like `like`, in the given layout. NTCHW frames of one pixel
// get the strides of NTHWC, which they are as well: any others look channels last to one part of PyTorch alone.
inline Tensor empty_clip(const Tensor& like, const Clip& shape, int64_t T, Layout layout) {
  const int64_t C = shape.C, P = shape.P, W = shape.W;
  const int64_t sizes[5] = {shape.N, C, T, shape.H, W};
  int64_t strides[5] = {C * T * P, T * P, P, W, 1};
  if (layout == Layout::kNTHWC || (layout == Layout::kNTCHW && P == 1)) {
    strides[1] = 1, strides[2] = C * P, strides[3] = W * C, strides[4] = C;
  } else if (layout == Layout::kNTCHW) {
    strides[1] = P, strides[2] = C * P;
  }
  int32_t dtype = 0, device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(5, sizes, strides, dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

// x itself where a kernel can walk it as it lies, otherwise a dense copy.
inline Tensor native_clip(const Tensor& x) {
  const Clip c = describe(x);
  if (c.native) {
    return x;
  }
  Tensor copy = empty_clip(x, c, c.T, c.layout);
  torch::stable::copy_(copy, x);
  return copy;
}

// The same for a gradient that is walked together with x: planar or channels last as x is.
inline Tensor native_clip_like(const Tensor& grad, const Clip& x) {
  const Clip c = describe(grad);
  if (c.native && c.channels_last() == x.channels_last()) {
    return grad;
  }
  Tensor copy = empty_clip(grad, c, c.T, x.layout);
  torch::stable::copy_(copy, grad);
  return copy;
}

}  // namespace vidops
