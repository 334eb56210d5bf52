// Every vidops:: operator, declared once. No default arguments: they live in the public Python functions.
#include <torch/csrc/stable/library.h>

#include "common/namespace.h"

#define VIDOPS_LIBRARY(ns, m) STABLE_TORCH_LIBRARY(ns, m)

VIDOPS_LIBRARY(VIDOPS_NAMESPACE, m) {
  m.def(
      "depthwise_conv3d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation) -> Tensor");
  m.def(
      "depthwise_conv3d_backward(Tensor grad, Tensor x, Tensor weight, int[] stride, int[] padding, int[] dilation, "
      "bool need_x, bool need_weight, bool need_bias) -> (Tensor, Tensor, Tensor)");
  m.def("keypoint_shifts(Tensor features, Tensor separators, float epsilon) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "keypoint_shifts_backward(Tensor grad, Tensor features, Tensor separators, Tensor keypoints, Tensor values, "
      "Tensor means, float epsilon, bool need_features, bool need_separators) -> (Tensor, Tensor)");
  m.def(
      "motion_band_pass(Tensor x, Tensor spatial, Tensor temporal, int stride, str temporal_padding, bool quiet) -> "
      "(Tensor, Tensor)");
  m.def(
      "motion_band_pass_backward(Tensor? grad, Tensor? grad_quiet, Tensor x, Tensor spatial, Tensor temporal, "
      "int stride, str temporal_padding, bool need_x, bool need_spatial, bool need_temporal) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "nonlocal_attention(Tensor query, Tensor key, Tensor value, int kind, float scale, bool allow_tf32) -> "
      "(Tensor, Tensor)");
  m.def(
      "nonlocal_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, "
      "int kind, float scale, bool allow_tf32) -> (Tensor, Tensor, Tensor)");
  m.def("pathway_select(Tensor[] paths, Tensor logits) -> Tensor");
  m.def("pathway_select_backward(Tensor grad, Tensor[] paths, Tensor logits) -> (Tensor[], Tensor)");
  m.def("resize(Tensor x, int height, int width) -> Tensor");
  m.def("resize_backward(Tensor grad, int height, int width) -> Tensor");
  m.def("temporal_conv(Tensor x, Tensor weight, Tensor? bias, int[] groups, int stride, str padding) -> Tensor");
  m.def(
      "temporal_conv_backward(Tensor grad, Tensor x, Tensor weight, int[] groups, int stride, str padding, "
      "bool need_x, bool need_weight, bool need_bias) -> (Tensor, Tensor, Tensor)");
  m.def("temporal_descriptor(Tensor features) -> Tensor");
  m.def("temporal_descriptor_backward(Tensor grad, Tensor features) -> Tensor");
  m.def(
      "temporal_projection(Tensor x, Tensor basis, float ridge, int outputs) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "temporal_projection_backward(Tensor? grad_coefficients, Tensor? grad_projection, Tensor? grad_residual, "
      "Tensor? grad_residual_mean, Tensor? grad_energy, Tensor? grad_error, Tensor x, Tensor basis, float ridge, "
      "bool need_x, bool need_basis) -> (Tensor, Tensor)");
  m.def("temporal_shift(Tensor x, int fold) -> Tensor");
  m.def("temporal_shift_backward(Tensor grad, int fold) -> Tensor");
}
