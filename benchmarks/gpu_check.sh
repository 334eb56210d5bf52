#!/usr/bin/env bash
# Checks vidops on a machine with a GPU: builds the kernels, runs the whole test suite there, runs each operator
# under compute-sanitizer, and measures the operators.
#
#   benchmarks/gpu_check.sh OUTDIR [STAGE...]
#
# Stages: info, build, test, sanitize, bench; all of them by default. A stage that would take long can be cut down:
# test:tests/ops, sanitize:temporal_conv, bench:temporal_conv. Each ends within VIDOPS_GPU_CHECK_LIMIT seconds (530).
# Logs and JSON go to OUTDIR. Needs nvcc, PyTorch, Triton, CMake, Ninja, pybind11 and pytest, and no network.
# VIDOPS_GPU_CHECK_DEVICE=cpu rehearses it without a GPU; PYTHON names the interpreter (python3).
set -u -o pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }
if [ $# -lt 1 ] || [ "$1" = -h ] || [ "$1" = --help ]; then usage; exit 2; fi
mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
DEVICE=${VIDOPS_GPU_CHECK_DEVICE:-cuda}
LIMIT=${VIDOPS_GPU_CHECK_LIMIT:-530}
STAGES=("$@")
[ ${#STAGES[@]} -gt 0 ] || STAGES=(info build test sanitize bench)
case $DEVICE in cuda | cpu) ;; *) echo "VIDOPS_GPU_CHECK_DEVICE must be cuda or cpu, got $DEVICE" >&2; exit 2 ;; esac
for stage in "${STAGES[@]}"; do
  case ${stage%%:*} in info | build | test | sanitize | bench) ;; *) echo "no stage $stage" >&2; usage >&2; exit 2 ;; esac
done
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
unset VIDOPS_BACKEND

has() { "$PYTHON" -c "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))" "$@"; }
operators() { "$PYTHON" -c 'from vidops.ops.backends import OPERATORS; print("\n".join(sorted(OPERATORS)))'; }
# The operators of a stage: the one after its colon, or all.
chosen() { if [ -n "$1" ]; then echo "$1"; else operators; fi; }
left() { echo $((DEADLINE - SECONDS > 5 ? DEADLINE - SECONDS : 5)); }

info() {
  echo "machine    $(uname -srm), $(nproc --all) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)"
  echo "CPU        $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo)"
  if command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,temperature.gpu --format=csv,noheader |
      sed 's/^/GPU        /'
  else
    echo "GPU        no GPU: there is no nvidia-smi"
  fi
  "$PYTHON" - << 'EOF'
import importlib.metadata as m, importlib.util as u, sys
print("Python    ", sys.version.split()[0], sys.executable)
if u.find_spec("torch") is None:
    sys.exit("no PyTorch for this Python")
import torch
print("torch     ", torch.__version__, "CUDA", torch.version.cuda, "GPUs", torch.cuda.device_count())
names = "triton numpy pytest pytest-timeout pytest-xdist pytest-benchmark hypothesis lightning av pydantic pillow \
scikit-image matplotlib cmake ninja pybind11 setuptools"
for name in names.split():
    try:
        print(f"{name:<17} {m.version(name)}")
    except m.PackageNotFoundError:
        print(f"{name:<17} missing")
EOF
  local ok=$?
  for tool in nvcc cmake ninja g++ compute-sanitizer; do
    printf '%-17s %s\n' "$tool" "$(command -v "$tool" || echo missing)"
  done
  command -v nvcc > /dev/null && nvcc --version | tail -2
  return $ok
}

build() {
  local arch
  if [ "$DEVICE" = cpu ]; then
    echo "no GPU: rehearsing with VIDOPS_BUILD=cpu; the result goes to $OUT/build and is not used"
    VIDOPS_BUILD=cpu timeout "$(left)" "$PYTHON" setup.py -q build_ext --build-lib "$OUT/build" || return
    ls -l "$OUT/build/vidops"
    return
  fi
  arch=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return
  echo "GPU of compute capability $arch"
  TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$arch} MAX_JOBS=${MAX_JOBS:-$(nproc --all)} VIDOPS_BUILD=cuda \
    timeout "$(left)" "$PYTHON" setup.py build_ext --inplace || return
  "$PYTHON" -m vidops info
}

run_tests() { # PATHS
  local options=(-q --durations=15 -p no:cacheprovider --doctest-ignore-import-errors)
  has pytest_timeout || options+=(-o "addopts=-ra --strict-markers --doctest-modules")
  # Processes share the GPU; each keeps few threads.
  if [ "$DEVICE" = cuda ] && has xdist; then
    options+=(-n "${VIDOPS_GPU_CHECK_PROCESSES:-6}" --dist loadfile)
    export OMP_NUM_THREADS=2
  fi
  local paths=("$@") part
  [ ${#paths[@]} -gt 0 ] || paths=(tests vidops)
  if ! has av pydantic lightning; then
    for part in data training evaluation cli; do
      [ -d "tests/$part" ] && options+=("--ignore=tests/$part")
      [ -d "vidops/$part" ] && options+=("--ignore=vidops/$part")
    done
    echo "PyAV, pydantic or Lightning is missing: tests of data, training, evaluation and the command line are left out"
  fi
  [ "$DEVICE" = cuda ] || echo "no GPU: tests that need one skip themselves"
  timeout "$(left)" "$PYTHON" -m pytest "${options[@]}" "${paths[@]}"
}

sanitize() { # [OPERATOR]
  local program=benchmarks/run_operator.py ops op tool status=0 why
  ops=$(chosen "${1:-}") || return
  if [ "$DEVICE" = cpu ]; then
    echo "no GPU: each operator's program runs on the CPU backend, without compute-sanitizer"
    for op in $ops; do timeout "$(left)" "$PYTHON" "$program" "$op" --backend cpu --device cpu || status=1; done
    return $status
  fi
  # Without the sanitizer first: it is right there, and Triton's kernels are compiled once for all.
  for op in $ops; do timeout "$(left)" "$PYTHON" "$program" "$op" --device cuda || status=1; done
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer cannot run: it is not installed"
    return $status
  fi
  # Its own allocations, so that it sees where each tensor ends.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  if ! why=$(timeout "$(left)" compute-sanitizer --error-exitcode 9 "$PYTHON" -c \
    'import torch; print(torch.zeros(8, device="cuda").add_(1).sum().item())' 2>&1); then
    echo "compute-sanitizer cannot run on this machine; what it said of a sum of eight numbers:"
    tail -12 <<< "$why"
    return $status
  fi
  for op in $ops; do
    for tool in memcheck initcheck racecheck; do
      echo "--- $tool $op"
      timeout "$(left)" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
        "$PYTHON" "$program" "$op" --device cuda || { echo "FAILED: $tool $op, status $?"; status=1; }
    done
  done
  return $status
}

bench() { # [OPERATOR]
  local ops op status=0
  ops=$(chosen "${1:-}") || return
  for op in $ops; do
    if [ "$DEVICE" = cpu ]; then
      echo "no GPU: a quick run on the CPU"
      timeout "$(left)" "$PYTHON" -m vidops bench "$op/cpu" --quick --json "$OUT/bench_$op.json" || status=1
    else
      timeout "$(left)" "$PYTHON" -m vidops bench "$op/cuda" --json "$OUT/bench_$op.json" || status=1
    fi
  done
  return $status
}

SUMMARY=()
FAILED=0
for stage in "${STAGES[@]}"; do
  name=${stage%%:*} argument= log="$OUT/$(printf %s "$stage" | tr /: __).log"
  [ "$name" = "$stage" ] || argument=${stage#*:}
  echo "=== $stage"
  begin=$SECONDS
  DEADLINE=$((SECONDS + LIMIT))
  case $name in
    test) run_tests ${argument:+"$argument"} 2>&1 | tee "$log" ;;
    *) "$name" ${argument:+"$argument"} 2>&1 | tee "$log" ;;
  esac
  status=${PIPESTATUS[0]}
  case $status in 0) verdict=ok ;; 124) verdict="FAILED: ran out of time" ;; *) verdict="FAILED, status $status" ;; esac
  grep -q "are left out$" "$log" && verdict="$verdict (with tests left out, see $log)"
  grep -q "^compute-sanitizer cannot run" "$log" && verdict="$verdict (without compute-sanitizer)"
  [ "$status" = 0 ] || FAILED=1
  SUMMARY+=("$(printf '%-24s %4d s  %s' "$stage" $((SECONDS - begin)) "$verdict")")
done
[ "$DEVICE" = cuda ] || SUMMARY+=("no GPU: this was a rehearsal on the CPU")
{ echo "=== summary"; printf '%s\n' "${SUMMARY[@]}"; } | tee -a "$OUT/summary.txt"
exit $FAILED
