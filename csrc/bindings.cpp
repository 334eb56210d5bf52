// vidops._C: what was built, with what, and what this CPU can run. No operators, no torch: it loads where they cannot.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "build_facts.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

// The highest instruction-set level of this CPU. GCC's and Clang's check covers the operating system too: a feature
// whose registers it does not save is reported as absent.
std::string cpu_capability() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);  // not every compiler knows its name
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && f16c;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return "avx512";
  if (avx2) return "avx2";
#endif
  return "baseline";
}

std::vector<std::string> cuda_arch_list() { return VIDOPS_CUDA_ARCHS; }

std::string release(std::uint64_t version) {
  return std::to_string(version >> 56) + "." + std::to_string((version >> 48) & 0xff);
}

py::dict build_info() {
  const std::vector<std::string> levels = VIDOPS_LEVELS;
  const std::vector<std::pair<std::string, std::string>> level_flags = VIDOPS_LEVEL_FLAGS;
  py::dict flags;
  for (const auto& [level, text] : level_flags) flags[py::str(level)] = text;
  const std::string cuda_version = VIDOPS_CUDA_VERSION;
  return py::dict("compiler"_a = VIDOPS_COMPILER, "flags"_a = VIDOPS_CXX_FLAGS, "level_flags"_a = flags,
                  "levels"_a = levels, "torch"_a = VIDOPS_TORCH_VERSION,
                  "torch_target"_a = release(VIDOPS_TORCH_TARGET_VERSION),
                  "cuda"_a = cuda_version.empty() ? py::object(py::none()) : py::object(py::str(cuda_version)),
                  "cuda_flags"_a = VIDOPS_CUDA_FLAGS);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts of the build of vidops.";
  m.def("build_info", &build_info, "Compiler, flags, levels and torch and CUDA versions of the build.");
  m.def("cpu_capability", &cpu_capability, "Highest instruction-set level that this CPU and its system run.");
  m.def("cuda_arch_list", &cuda_arch_list, "GPU targets of the CUDA library, empty where it was not built.");
}
