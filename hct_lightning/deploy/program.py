"""The network as an exported program, which OpenVINO, AOTInductor and ONNX start from."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

MULTIPLE = 32  # height and width: free ones violate the guards of HCT's strides


def program(network: nn.Module, example: Tensor, *, dynamic: bool) -> ExportedProgram:
    """Exports `network` for batches of one.

    Args:
        network: takes uint8 images, in eval mode.
        example: 1 c h w uint8.
        dynamic: open height and width, in multiples of 32 from 128.

    Raises:
        ValueError: when the example's size is no such multiple but should be open.
    """
    sizes = None
    if dynamic:
        height, width = example.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(
                f"export.dynamic=true takes a run at multiples of {MULTIPLE} pixels, not at {height}x{width}; use "
                "export=[torchscript], which takes any, leave export.dynamic=false, or train at another data.resolution"
            )
        sizes = ({2: MULTIPLE * Dim("rows", min=4), 3: MULTIPLE * Dim("columns", min=4)},)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=sizes)
