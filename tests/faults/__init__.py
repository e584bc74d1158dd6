"""What is done to the tools on purpose, and what must survive it; `tools/accept_faults.py` does it by the hundred."""
