"""A finished job, to whose record results may be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.cli.common.parser import with_data
from kd_bench.cli.common.trust import check_calls, student_calls
from kd_bench.config.schema import Config, Device
from kd_bench.results.record import Record
from kd_bench.results.run_folder import RESULT, TEST_LOGITS, WEIGHTS, check_weights
from kd_bench.results.store import open_record
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import file_hash
from kd_bench.utils.lock import Locked

if TYPE_CHECKING:  # torch takes seconds to import
    from kd_bench.data.dataset import Data


@dataclass(frozen=True)
class Finished:
    """A finished job."""

    folder: Path
    record: Record
    config: Config  # of the record, with the current location of the images and device
    trusted: Sequence[str]

    @classmethod
    def at(
        cls, place: str, data: str | None, device: str | None, trusted: Sequence[str]
    ) -> Finished:
        """The finished job in a folder, or of a file in it.

        Raises:
            UserError: there is none, it calls code that is not trusted, or the hash of its weights
                is not that in its record.
        """
        folder, record = open_record(place)
        called = {"dataset": record.config.dataset} | student_calls(record.config)
        check_calls(folder / RESULT, called, trusted)
        check_weights(folder, record)
        config = replace(with_data(record.config, data), device=Device(device or "auto"))
        return cls(folder, record, config, trusted)

    @property
    def weights(self) -> str:
        """The file of its weights."""
        return str(self.folder / WEIGHTS)

    @property
    def has_logits(self) -> bool:
        """Whether there are stored logits with the hash in the record."""
        path, known = self.folder / TEST_LOGITS, self.record.test_logits_sha256
        return known is not None and path.exists() and file_hash(path) == known

    @property
    def lacks_comparison(self) -> bool:
        """Whether the record has a teacher, but no comparison of the student with it."""
        is_compared = self.record.metrics is not None and self.record.metrics.kl is not None
        return self.record.teacher is not None and not is_compared

    def check_images(self, data: Data) -> None:
        """Check that the images are those of the record.

        Raises:
            UserError: they are not.
        """
        require(
            data.fingerprint == self.record.data_fingerprint,
            f"{self.folder} was trained on different images",
        )

    def add(self, **values: Any) -> None:
        """Add values to its record.

        Raises:
            UserError: another process works in the folder, or it is not writable.
        """
        from kd_bench.jobs.record import add_to_record

        try:
            add_to_record(self.folder, values)
        except (Locked, OSError) as error:
            raise UserError(f"nothing was added to {self.folder / RESULT}: {error}") from None
