"""Published weights of VGG16 and LPIPS: the right files load to the published computation, others are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.errors import CheckpointError
from nextscale.features.vgg import load_vgg16

CONFIGURATION_D = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
TAPS = (3, 8, 15, 22, 29)  # relu1_2 to relu5_3 in the sequence below


def reference() -> nn.Sequential:
    """VGG16's convolutions as the paper's table D lists them, in torchvision's order."""
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    channels = 3
    for entry in CONFIGURATION_D:
        if isinstance(entry, int):
            modules += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU()]
            channels = entry
        else:
            modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules).requires_grad_(False)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A state with the published names and shapes; the large last layers take no space."""
    found = {f"features.{name}": tensor for name, tensor in reference().state_dict().items()}
    for number, (rows, columns) in {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}.items():
        found[f"classifier.{number}.weight"] = torch.zeros(1).expand(rows, columns)
        found[f"classifier.{number}.bias"] = torch.zeros(rows)
    return found


@pytest.fixture(scope="module")
def linear() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {f"lin{i}.model.1.weight": torch.rand((1, c, 1, 1)) for i, c in enumerate((64, 128, 256, 512, 512))}


@pytest.fixture(scope="module")
def files(state: dict[str, Tensor], linear: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    torch.save(state, folder / "vgg16.pth")
    torch.save(linear, folder / "vgg.pth")
    return folder


def test_layers_and_distance_are_the_published_ones(files: Path, linear: dict[str, Tensor]) -> None:
    network = load_vgg16(files / "vgg16.pth", files / "vgg.pth")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = (torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in (0, 1))
    expected, published = torch.zeros(2), reference()
    layers = network.layers(a)
    x, y = ((image - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for image in (a, b))
    for i, module in enumerate(published):
        x, y = module(x), module(y)
        if i in TAPS:
            k = TAPS.index(i)
            assert torch.allclose(layers[k], x, atol=1e-6)
            difference = (F.normalize(x, eps=1e-10) - F.normalize(y, eps=1e-10)).square()
            expected += F.conv2d(difference, linear[f"lin{k}.model.1.weight"]).mean((1, 2, 3))
    assert torch.allclose(network.distance(a, b), expected, rtol=1e-2)
    assert torch.equal(network.distance(a, a), torch.zeros(2))


def test_a_missing_a_damaged_and_a_foreign_file(files: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist; expected torchvision's weights of VGG16"):
        load_vgg16(tmp_path / "nowhere.pth")
    (tmp_path / "cut.pth").write_bytes((files / "vgg16.pth").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut.pth cannot be read; expected torchvision's weights of VGG16"):
        load_vgg16(tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"text.pth cannot be read"):
        load_vgg16(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_vgg16(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"is not torchvision's weights of VGG16: features.0.weight is missing"):
        load_vgg16(files / "vgg.pth")
    with pytest.raises(CheckpointError, match=r"is not LPIPS' weights for VGG16: lin0.model.1.weight is missing"):
        load_vgg16(files / "vgg16.pth", files / "vgg16.pth")


def test_a_wrong_shape_a_left_over_and_code_are_refused(files: Path, linear: dict[str, Tensor], tmp_path: Path) -> None:
    changed = linear | {"lin2.model.1.weight": torch.zeros((1, 255, 1, 1))}
    torch.save(changed, tmp_path / "shape.pth")
    with pytest.raises(CheckpointError, match=r"lin2.model.1.weight is \(1, 255, 1, 1\); expected \(1, 256, 1, 1\)"):
        load_vgg16(files / "vgg16.pth", tmp_path / "shape.pth")
    torch.save(linear | {"lin5.model.1.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"lin5.model.1.weight is \(1,\); expected nothing of that name"):
        load_vgg16(files / "vgg16.pth", tmp_path / "more.pth")
    torch.save(linear | {"lin0.model.1.weight": Path("a")}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code.pth cannot be read"):
        load_vgg16(files / "vgg16.pth", tmp_path / "code.pth")


@pytest.mark.parametrize("damage", ["nan", "int", "sparse", "meta", "pipe", "folder", "loop"])
def test_weights_that_are_none_are_refused(state: dict[str, Tensor], tmp_path: Path, damage: str) -> None:
    """Numbers that are none in one tensor, and files that nobody may wait for."""
    path = tmp_path / "vgg.pth"
    changes = {
        "nan": lambda t: t * float("nan"),
        "int": lambda t: t.int(),
        "sparse": lambda t: t.to_sparse(),
        "meta": lambda t: t.to("meta"),
    }
    if damage in changes:
        name = "features.2.weight"
        torch.save(state | {name: changes[damage](state[name])}, path)
    else:
        {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda p: p.symlink_to(p.name)}[damage](path)
    with pytest.raises(CheckpointError, match=r"vgg\.pth .*expected torchvision|vgg\.pth is not torchvision"):
        load_vgg16(path)
