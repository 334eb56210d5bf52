"""Pictures: functions that return matplotlib figures and touch no global state of it."""

from __future__ import annotations

from .actors import check_actor_video, draw_actors, save_actor_video
from .attention import AttentionMap, MapRow, attention_layers, attention_of, map_rows
from .benchmarks import benchmark_bars
from .busy import BusyQuiet, busy_grid, find_band_pass, split_frames
from .clips import ShownFrames, clip_grid, frame_grid, frame_times, read_shown
from .embedding import tsne_plot, tsne_points
from .evaluation import class_accuracy_bars, confusion_matrix
from .examples import Example, example_rows, likeliest
from .figures import check_animation, check_picture, save, save_animation
from .flow_colors import flow_colors
from .gains import class_gains, gains_plot, read_report
from .gradcam import ClassMap, default_layer, grad_cam, layer_energy
from .heatmaps import animate_heat_map, heat_map_grid, stretch_map
from .joint import energy_scatter, schedule_curves
from .kernels import filter_grid, first_filters, kernel_grid
from .keypoints import KeyPoints, key_point_grid, key_points_of
from .networks import Subject, features_of_videos, load_subject
from .pathways import Pathways, pathway_averages, pathway_timeline, pathways_of
from .projection import (
    Appearance,
    Squeezed,
    appearance_grid,
    appearances,
    find_layer,
    fit_projection,
    squeeze,
    squeezed_grid,
)
from .roofline import roofline, roofline_points
from .sweep import sweep_plot
from .training import accuracy_bars, run_curves, training_curves

__all__ = [
    "Appearance",
    "AttentionMap",
    "BusyQuiet",
    "ClassMap",
    "Example",
    "KeyPoints",
    "MapRow",
    "Pathways",
    "ShownFrames",
    "Squeezed",
    "Subject",
    "accuracy_bars",
    "animate_heat_map",
    "appearance_grid",
    "appearances",
    "attention_layers",
    "attention_of",
    "benchmark_bars",
    "busy_grid",
    "check_actor_video",
    "check_animation",
    "check_picture",
    "class_accuracy_bars",
    "class_gains",
    "clip_grid",
    "confusion_matrix",
    "default_layer",
    "draw_actors",
    "energy_scatter",
    "example_rows",
    "features_of_videos",
    "filter_grid",
    "find_band_pass",
    "find_layer",
    "first_filters",
    "fit_projection",
    "flow_colors",
    "frame_grid",
    "frame_times",
    "gains_plot",
    "grad_cam",
    "heat_map_grid",
    "kernel_grid",
    "key_point_grid",
    "key_points_of",
    "layer_energy",
    "likeliest",
    "load_subject",
    "map_rows",
    "pathway_averages",
    "pathway_timeline",
    "pathways_of",
    "read_report",
    "read_shown",
    "roofline",
    "roofline_points",
    "run_curves",
    "save",
    "save_actor_video",
    "save_animation",
    "schedule_curves",
    "split_frames",
    "squeeze",
    "squeezed_grid",
    "stretch_map",
    "sweep_plot",
    "training_curves",
    "tsne_plot",
    "tsne_points",
]
