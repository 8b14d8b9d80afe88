"""Studies: cells that join data, surgery, tuning and evaluation."""
