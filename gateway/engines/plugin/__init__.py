"""What runs inside the vLLM process: patches against known defects, and where which adapter is. Only here is torch."""
