// Launch choices that measurements may change: named whole numbers, each with the values that it may take.
//
// A tunable stands beside the launcher that reads it, in the operator's .cu file, and is read once a call: grid, shared
// memory and scratch of that call all follow from the one number. Kernels are right at every candidate; sums may be
// taken apart differently, so that another value gives other last bits, and the same value the same ones. What a
// captured CUDA graph launches stays what it was at capture.
//
// Here are only choices that cost nothing at run time. Tiles in registers, stages of a loop, threads that
// __launch_bounds__ has promised not to exceed are template arguments and constants: those want a rebuild.
//
// The library offers them to vidops/tuning/native.py by the three C functions below, the only names it exports.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace vidops {

class Tunable {
 public:
  // `candidates`, in ascending order, have `initial` among them.
  template <size_t N>
  Tunable(const char* owner, const char* name, int64_t initial, const int64_t (&candidates)[N])
      : owner(owner), name(name), initial(initial), next(first), count_(N), value_(initial) {
    static_assert(N <= kMost);
    std::copy_n(candidates, N, values_);
    first = this;
  }
  Tunable(const Tunable&) = delete;

  int64_t get() const { return value_.load(std::memory_order_relaxed); }
  bool set(int64_t value) {
    if (std::find(values_, values_ + count_, value) == values_ + count_) return false;
    value_.store(value, std::memory_order_relaxed);
    return true;
  }

  static Tunable* find(const char* owner, const char* name) {
    Tunable* t = first;
    while (t && (std::strcmp(t->owner, owner) != 0 || std::strcmp(t->name, name) != 0)) t = t->next;
    return t;
  }
  // A line for each: owner, name, the initial value, candidates.
  static const char* list() {
    static const std::string lines = [] {
      std::string made;
      for (const Tunable* t = first; t; t = t->next) {
        made += std::string(t->owner) + " " + t->name + " " + std::to_string(t->initial);
        for (int i = 0; i < t->count_; ++i) made += " " + std::to_string(t->values_[i]);
        made += "\n";
      }
      return made;
    }();
    return lines.c_str();
  }

 private:
  static constexpr int kMost = 6;
  static inline constinit Tunable* first = nullptr;  // of the library; before any constructor runs

  const char *const owner, *const name;
  const int64_t initial;
  Tunable* const next;
  int64_t values_[kMost];
  const int count_;
  std::atomic<int64_t> value_;
};

}  // namespace vidops

// What Tunable::list says; the memory stays.
extern "C" inline __attribute__((visibility("default"), used)) const char* vidops_tunables() {
  return vidops::Tunable::list();
}

// 0; 1 where there is none of this name; 2 where the value is not among its candidates.
extern "C" inline __attribute__((visibility("default"), used)) int vidops_tunable_get(const char* owner,
                                                                                      const char* name,
                                                                                      int64_t* value) {
  const vidops::Tunable* t = vidops::Tunable::find(owner, name);
  if (t) *value = t->get();
  return t ? 0 : 1;
}
extern "C" inline __attribute__((visibility("default"), used)) int vidops_tunable_set(const char* owner,
                                                                                      const char* name, int64_t value) {
  vidops::Tunable* t = vidops::Tunable::find(owner, name);
  return !t ? 1 : t->set(value) ? 0 : 2;
}
