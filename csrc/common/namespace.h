// The operator namespace and dispatch key of a build.
//
// Installed libraries register torch.ops.vidops.*; the test build that runs the CUDA sources on the host
// overrides both, so that its operators stand beside the installed ones in one process.
#pragma once

#ifndef VIDOPS_NAMESPACE
#define VIDOPS_NAMESPACE vidops
#endif
#ifndef VIDOPS_CUDA_KEY
#define VIDOPS_CUDA_KEY CUDA
#endif

// STABLE_TORCH_LIBRARY_IMPL pastes its arguments, so they must be expanded one macro earlier.
#define VIDOPS_LIBRARY_IMPL(ns, key, m) STABLE_TORCH_LIBRARY_IMPL(ns, key, m)
