// The host's twin of csrc/cuda/copy_async.cuh: a copy is made when it is waited for, so that one that nobody waits for
// leaves NaN behind, and a place that is overwritten too early shows as well.
#pragma once

#include "cuda_host.h"

namespace vidops::host {

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool valid;
};
struct Copies {
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
};
inline Copies copies[1024];  // of a block's threads; a kernel waits for all of its own

}  // namespace vidops::host

namespace vidops {

template <int kBytes>
void copy_async(void* to, const void* from, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  STD_TORCH_CHECK((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % kBytes == 0,
                  "copy_async: misaligned address");
  host::copies[host::machine.current].open.push_back({to, from, kBytes, valid});
}
inline void copies_commit() {
  host::Copies& mine = host::copies[host::machine.current];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int N>
void copies_wait() {
  auto& groups = host::copies[host::machine.current].groups;
  for (; groups.size() > N; groups.erase(groups.begin())) {
    for (const host::Copy& copy : groups.front()) {
      copy.valid ? std::memcpy(copy.to, copy.from, copy.bytes) : std::memset(copy.to, 0, copy.bytes);
    }
  }
}

}  // namespace vidops
