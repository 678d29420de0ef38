"""Where images and labels come from: a folder tree, LIU4K, a CSV file, drawn scenes.

A source is a function that gives a `Catalogue`. It reads names and labels, no pixels.
"""

from hct_lightning.data.sources.catalogue import Catalogue, Split
from hct_lightning.data.sources.drawn import scenes
from hct_lightning.data.sources.folders import folder, liu4k
from hct_lightning.data.sources.tables import table

__all__ = ["Catalogue", "Split", "folder", "liu4k", "scenes", "table"]
