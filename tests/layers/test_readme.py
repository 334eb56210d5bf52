"""The README's snippets of layers and attention run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

README = Path(__file__).parents[2] / "README.md"


def snippet(word: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if word in block)


class Resnet(nn.Module):
    """Somebody's, as far as the README needs it: frames in, 1,024 channels behind ``layer3.0``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer3 = nn.Sequential(nn.Conv2d(3, 1024, 3, 4))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.layer3(frames)


def test_attention_behind_blocks() -> None:
    theirs, x = Resnet(), torch.rand(16, 3, 8, 8)
    expected = theirs(x)
    code = "import vidops\n" + snippet("insert_after").replace(
        "remove_inserted(net)", "removed = remove_inserted(net)"
    )
    names: dict[str, Any] = {"their_resnet": theirs}
    exec(code, names)
    imported = re.findall(r"import (.*)", snippet("insert_after"))[0].split(", ")
    assert all(snippet("insert_after").count(name) > 1 for name in imported)
    assert names["removed"] == ["blocks.2", "blocks.3"]
    assert torch.equal(theirs(x), expected)
    assert len(theirs.state_dict()) > 2


def test_layers_and_backends(capsys: Any) -> None:
    names: dict[str, Any] = {"any_model": nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, groups=4))}
    with torch.no_grad():
        exec(snippet("vidops.accelerate(any_model)"), names)
    assert names["logits"].shape == (1, 174)
    out = capsys.readouterr().out
    assert "1 exchanged" in out
    assert "temporal_conv on cpu" in out


def test_actors() -> None:
    names: dict[str, Any] = {}
    with torch.no_grad():
        exec("import torch, vidops\n" + snippet("st_slowfast_i3d_resnet50"), names)
    assert names["y"].shape == (1, 256, 8, 16, 16)
    assert names["actions"].shape == (2, 80)
