"""What runs inside the vLLM process: shields against known defects, and where which adapter is. Only here is torch."""
