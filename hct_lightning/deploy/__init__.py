"""From a trained network to artifacts, and back to predictions."""

from hct_lightning.deploy.artifact import Artifact, load_artifact
from hct_lightning.deploy.export import export_artifact

__all__ = ["Artifact", "export_artifact", "load_artifact"]
