"""Modules over the operators: they take and return clips ``(N, C, T, H, W)`` in any native layout."""

from .adaptive_regional_shift import AdaptiveRegionalShift
from .attention_chain import AttentionChain
from .cbam3d import CBAM3d
from .conv_pyramid_attention import ConvPyramidAttention
from .depthwise_conv3d import DepthwiseConv3d
from .fold_time import FoldTime
from .global_context import GlobalContext
from .key_point_shift_embedding import KeyPointShiftEmbedding
from .lateral_connection import BandPassLateralConnection, LateralConnection
from .memory_format import channels_last
from .mix_t_conv import MixTConv
from .motion_band_pass import MotionBandPass
from .non_local import NonLocal
from .pixelwise_temporal_projection import PixelwiseTemporalProjection
from .placement import insert_after, remove_inserted
from .region_non_local import RegionNonLocal
from .roi_align import roi_align
from .slow_fast_attention import SlowFastAttention, SlowFastSelfAttention
from .squeeze_excite3d import SqueezeExcite3d
from .temporal_shift import TemporalShift
from .temporal_spatial_pathway import TemporalSpatialPathway, pathway_contributions, pathway_dilations
from .temporal_squeeze_pool import TemporalSqueezePool

__all__ = [
    "AdaptiveRegionalShift",
    "AttentionChain",
    "BandPassLateralConnection",
    "CBAM3d",
    "ConvPyramidAttention",
    "DepthwiseConv3d",
    "FoldTime",
    "GlobalContext",
    "KeyPointShiftEmbedding",
    "LateralConnection",
    "MixTConv",
    "MotionBandPass",
    "NonLocal",
    "PixelwiseTemporalProjection",
    "RegionNonLocal",
    "SlowFastAttention",
    "SlowFastSelfAttention",
    "SqueezeExcite3d",
    "TemporalShift",
    "TemporalSpatialPathway",
    "TemporalSqueezePool",
    "channels_last",
    "insert_after",
    "pathway_contributions",
    "pathway_dilations",
    "remove_inserted",
    "roi_align",
]
