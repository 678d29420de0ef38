"""Networks. Importing this package registers `hct` with timm."""

from hct_lightning.models.hct import HCT
from hct_lightning.models.original import load_original_state_dict
from hct_lightning.models.performer import PerformerAttention
from hct_lightning.models.pixels import FromPixels

__all__ = ["HCT", "FromPixels", "PerformerAttention", "load_original_state_dict"]
