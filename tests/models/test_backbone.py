from __future__ import annotations

import pytest
import torch

from tests.models.test_networks import clips
from vidops.models import Backbone, KeyPointNetwork, create_model, list_models

TINY = [name for name in list_models("tiny_*") if isinstance(create_model(name), Backbone)]
CHAINS = [name for name in TINY if not isinstance(create_model(name), KeyPointNetwork)]


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_one_by_one(name: str) -> None:
    net = create_model(name).eval()
    clip, modules = clips(name=name), dict(net.named_modules())
    x = net.forward_stem(net.enter(clip))
    stage = 1
    with torch.no_grad():
        for block in net.residual_blocks():
            assert modules[block.name] is block.module
            assert block.stage in (stage, stage + 1)
            stage = block.stage
            x = block.module(x)
            assert (x.ndim, x.shape[1]) == (4 if net.folded else 5, block.width)
        logits = net.leave(net.classify(net.forward_pool(x)))
        assert torch.equal(logits, net(clip))
        assert torch.equal(x, net.forward_features(net.enter(clip)))


@pytest.mark.parametrize("name", TINY)
def test_names_of_stem_and_classifier(name: str) -> None:
    net = create_model(name, num_classes=7)
    assert net.get_submodule(net.classifier_name).out_features == 7
    assert net.get_submodule(net.stem_name).in_channels == 3


def test_blocks_of_resnets() -> None:
    with torch.device("meta"):
        blocks = create_model("tsm_resnet50").residual_blocks()
    assert [b.name for b in blocks[:4]] == ["layer1.0", "layer1.1", "layer1.2", "layer2.0"]
    assert [b.width for b in blocks] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
