"""From the settings of a region to the region: what the adversary may make of every sample."""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.audits.data import Data
from fathom.audits.settings import RegionSettings
from fathom.core.errors import FathomError
from fathom.core.region import Region
from fathom.regions.box import BoxRegion
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.patch import Patch
from fathom.regions.tabular import Tabular
from fathom.regions.wasserstein import WassersteinBall
from fathom.transforms.region import Transformed

BALLS: dict[str, type[LinfBall | L2Ball | L1Ball]] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}

Ends = tuple[Tensor, Tensor]


def make_region(settings: RegionSettings, data: Data | None, points: Data | None, size: int) -> Region:
    """The region of an audit.

    Args:
        data: the samples that are cases; None for a box.
        points: for finite sets, the points of each of the same cases [n, k, *shape].
        size: of one input, as the model takes it.

    Raises:
        FathomError: settings and samples do not fit together.
    """
    ends = _ends(settings, size)
    if data is None:
        assert ends is not None
        return BoxRegion(ends[0].clone(), ends[1].clone())
    if isinstance(settings.radius, tuple):
        return LinfBall.per_input(data.flat, settings.radius, clip=ends)
    if settings.kind in BALLS:
        assert settings.radius is not None
        return BALLS[settings.kind].around(data.flat, settings.radius, clip=ends)
    if settings.kind == "finite":
        return _finite(data, points)
    if settings.transform is not None:
        images = torch.from_numpy(data.x.copy())
        return Transformed.around(images, settings.transform, clip=ends, radius=settings.one_radius or 0.0)
    if settings.kind == "tabular":
        assert ends is not None
        return _tabular(settings, data, ends)
    return _image_region(settings, data, ends)


def _ends(settings: RegionSettings, size: int) -> Ends | None:
    """The range of legal inputs, where there is one."""
    if settings.clip is None:
        return None
    low, high = (_end(part, size) for part in settings.clip)
    return low, high


def _end(numbers: tuple[float, ...], size: int) -> Tensor:
    """[1, size] of one number, or one an input.

    Raises:
        FathomError: another number of them.
    """
    if len(numbers) not in (1, size):
        raise FathomError(f"expected one end of the range, or one for each of {size} inputs, got {len(numbers)}")
    return torch.tensor(numbers, dtype=torch.float64).expand(size)[None]


def _finite(data: Data, points: Data | None) -> Region:
    assert points is not None
    if len(points) != len(data) or points.x.ndim != data.x.ndim + 1 or points.shape[1:] != data.shape:
        raise FathomError(
            f"expected points [N, k, *shape] for samples [{len(data)}, *{list(data.shape)}], got {list(points.x.shape)}"
        )
    return FiniteSet.of(torch.from_numpy(points.x.copy()))


def _tabular(settings: RegionSettings, data: Data, ends: Ends) -> Region:
    relations = settings.relations or ()
    rows = None
    if relations:
        rows = [list(relation.coefficients) for relation in relations], [relation.limit for relation in relations]
        if len(rows[0][0]) != data.flat.shape[1]:
            raise FathomError(f"expected relations with {data.flat.shape[1]} coefficients, one a feature, got {len(rows[0][0])}")
    return Tabular.around(
        data.flat,
        ends,
        immutable=settings.immutable or (),
        step=settings.step,
        groups=settings.groups or (),
        most=settings.most,
        unit=settings.unit,
        budget=settings.budget,
        relations=rows,
    )


def _image_region(settings: RegionSettings, data: Data, ends: Ends | None) -> Region:
    """Regions that know which inputs are neighbours; and L0 balls, which may."""
    images = torch.from_numpy(data.x.copy())
    if settings.kind == "l0" and not settings.pixels:
        assert settings.count is not None
        return L0Ball.around(data.flat, settings.count, ends, radius=settings.one_radius)
    if images.ndim not in (3, 4):
        raise FathomError(
            f"expected images [N, channels, height, width] or [N, height, width] for the kind {settings.kind}, got samples "
            f"{list(images.shape)}; save them in their shape"
        )
    if settings.kind == "l0":
        assert settings.count is not None
        channels = images.shape[1] if images.ndim == 4 else 1
        groups = L0Ball.pixels((channels, images.shape[-2], images.shape[-1]))
        return L0Ball.around(data.flat, settings.count, ends, radius=settings.one_radius, groups=groups)
    if settings.kind == "patch":
        assert settings.size is not None
        return Patch.around(images, (settings.size[0], settings.size[-1]), ends, radius=settings.one_radius)
    assert settings.one_radius is not None
    window = 2 if settings.window is None else settings.window
    return WassersteinBall.around(images, settings.one_radius, ends, window=window)
