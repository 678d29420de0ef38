import zipfile

import pytest
import torch

from hct_lightning.runs.archives import refuse_inflated


def test_what_would_fill_the_memory_is_refused(tmp_path):
    file = tmp_path / "a.ckpt"
    torch.save({"x": torch.zeros(1000)}, file)
    refuse_inflated(file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/1", bytes(10**6))
    with pytest.raises(zipfile.BadZipFile, match=r"its parts are said to have 100\d{4} bytes, it has \d{4}$"):
        refuse_inflated(file)
    refuse_inflated(file, compressed=10**6)
