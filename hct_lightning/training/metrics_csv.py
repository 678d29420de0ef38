"""metrics.csv: everything that was logged, a row per step, also across interruptions."""

import csv
import io
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hct_lightning.runs.files import write_whole


class MetricsCSV(Logger):
    """Keeps `metrics.csv` of a run's folder.

    A run that is resumed goes on in the same file. Rows of later steps are replaced by those of the
    steps as they are done again; that of the resumed step itself is added to.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] | None = None
        self._first = True
        self._unsaved = False
        self._saved_at = 0.0

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> None:
        return None

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def rows(self) -> dict[int, dict[str, Any]]:
        """Rows by step; read from the file on first use."""
        if self._rows is None:
            self._rows = {}
            if self.path.exists():
                with self.path.open(newline="") as file:
                    self._rows = {int(row["step"]): row for row in csv.DictReader(file)}
        return self._rows

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in `.hydra`."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows = self.rows()
        if self._first and step:
            self._rows = rows = {at: row for at, row in rows.items() if at <= step}
        self._first = False
        rows.setdefault(step or 0, {"step": step or 0}).update(metrics)
        self._unsaved = True
        # The file is written as a whole: at once for an epoch's figures, which are not made again, else now and then.
        if time.monotonic() - self._saved_at > 5 or any(key.startswith(("val/", "time/")) for key in metrics):
            self._write()

    def _write(self) -> None:
        if not self._unsaved:
            return
        rows = [row for _, row in sorted(self.rows().items())]
        columns = sorted({key for row in rows for key in row} - {"step", "epoch"})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", "epoch", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, text.getvalue())
        self._unsaved = False
        self._saved_at = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write()
