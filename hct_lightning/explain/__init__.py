"""Where a network looks: maps over an image, their overlays, and the receptive field."""
