"""`turntable` computing in fp32: two orders of the same sums then agree to a thousandth on any processor.

In bf16 they part after a few steps, by as much as its rounding allows, which no test can tell from a small fault.
"""

import torch

import turntable
from trainer.optimise import models

if __name__ == "__main__":
    models.PRECISION = torch.float32
    turntable.main()
