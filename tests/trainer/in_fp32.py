"""`turntable` computing in fp32: two orders of the same sums then agree to a thousandth on any processor.

In bf16 they part after a few steps, by as much as its rounding allows, which no test can tell from a small fault.
"""

import torch

from trainer.training import model
from turntable.cli import main

if __name__ == "__main__":
    model.PRECISION = torch.float32
    main()
