"""The problem: minimise a margin over a region. Attacks, bounds, searches and training all read this one object."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.core.arithmetic import Arithmetic
from fathom.core.coverage import Coverage
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.filled import require_filled
from fathom.core.network import Network
from fathom.core.overseer import Overseer
from fathom.core.program import Program
from fathom.core.region import Region
from fathom.core.spec import Spec
from fathom.core.value import fingerprint


@dataclass(frozen=True, eq=False)
class Problem:
    """n sets that share a network; `owner` says which of the user's cases each belongs to.

    A case's worst margin is the least over its sets: a disjunction over inputs is one case with many sets.
    """

    program: Program
    network: Network | None  # captured, with the overseer's own part; may be live; None: value-only search
    written: Region  # as its author wrote it: says whether a witness lies inside the decimals
    deployed: Region  # end points rounded to the program's dtype: where witnesses live
    region: Region  # the hull of both: what proofs cover
    overseer: Overseer
    spec: Spec | None  # over the network's output; None: attackable, not provable
    exact: bool  # False: the spec over-approximates the overseer, so only proofs carry over
    owner: Tensor  # [n] int64
    model: Network | None = None  # what was captured alone, without the overseer's own part
    obstacle: str = ""  # why there is no spec or network, in a sentence; "" where there are both

    @staticmethod
    def make(
        program: Program, network: Network | None, region: Region, overseer: Overseer, owner: Tensor | None = None
    ) -> Problem:
        """The problem of a captured network; compiles the overseer where that can be done.

        Raises:
            FathomError: the region's size is not the network's, its sets are not as many as the judges, or one of them is empty.
        """
        require_filled(region)
        return Problem.of_any_sets(program, network, region, overseer, owner)

    @staticmethod
    def of_any_sets(
        program: Program, network: Network | None, region: Region, overseer: Overseer, owner: Tensor | None = None
    ) -> Problem:
        """The same of sets that may be empty, as those that a search makes may: nothing in them fails, so they are proved.

        Raises:
            FathomError: as `make`, but for empty sets.
        """
        size = sum(port.size for port in program.inputs)
        if region.size != size:
            raise FathomError(f"expected a region of {size} inputs for this model, got one of {region.size}; flatten each sample")
        deployed = region.rounded(program.dtype)
        model, spec, exact, obstacle = network, None, True, "the model could not be captured as a network"
        if network is not None:
            try:
                compiled = overseer.compile(network)
                network, spec, exact, obstacle = compiled.network, compiled.spec, compiled.exact, ""
                if len(spec) != len(region):
                    raise FathomError(f"expected a judge for each of the region's {len(region)} sets, got {len(spec)}")
            except NotCompilable as reason:
                obstacle = str(reason)
        if owner is None:
            owner = torch.arange(len(region))
        return Problem(program, network, region, deployed, region.hull(deployed), overseer, spec, exact, owner, model, obstacle)

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def cases(self) -> int:
        """How many cases the sets make up."""
        return int(self.owner.max()) + 1 if len(self) else 0

    def coverage(self, x: Tensor) -> Coverage | None:
        """On how many inputs [n, d], one a set, the program acts; None where the overseer does not speak of abstaining."""
        return self.overseer.coverage(self.program(x.to(self.program.dtype)).to(torch.float64))

    @property
    def arithmetic(self) -> Arithmetic:
        """What proofs, brackets and failures of this problem are about."""
        return Arithmetic.REAL if self.network is None else self.network.arithmetic

    @property
    def provable(self) -> bool:
        return self.network is not None and self.spec is not None

    def take(self, index: Tensor) -> Problem:
        """The problem of the sets at `index`; `owner` is kept, so that answers still find their case."""
        return replace(
            self,
            written=self.written.take(index),
            deployed=self.deployed.take(index),
            region=self.region.take(index),
            overseer=self.overseer.take(index),
            spec=None if self.spec is None else self.spec.take(index),
            owner=self.owner[index],
        )

    def sets_of(self, case: int) -> Tensor:
        """The indices of the sets of one case."""
        return (self.owner == case).nonzero()[:, 0]

    def digests(self) -> list[str]:
        """One SHA-256 a case, over the bytes of program, sets and judges, and the arithmetic: equal digests, equal questions."""
        shared = self.program.digest + ("" if self.arithmetic is Arithmetic.REAL else f" {self.arithmetic}")
        per_set = [fingerprint((self.written.take(one), self.overseer.take(one))) for one in torch.arange(len(self))[:, None]]
        digests = []
        for case in range(self.cases):
            parts = [shared, *(per_set[i] for i in self.sets_of(case).tolist())]
            digests.append(hashlib.sha256("\n".join(parts).encode()).hexdigest())
        return digests

    def export(self, folder: str | Path) -> None:
        """Write `model.onnx` and `problem.json` into `folder`, for others to check; see `fathom.export`.

        That function is called by name: file formats live in capture, an upper floor, of which this one knows nothing else.

        Raises:
            NotUnderstood: no network was captured, or one of its operators cannot be written.
        """
        importlib.import_module("fathom.capture.export").export(self, folder)
