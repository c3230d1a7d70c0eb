"""What runs inside the vLLM process: shields against known defects of the engine. The only part of the gateway with
torch.
"""
