"""Any task over a whole cohort: worker processes, one folder of derivatives, and results that are made once."""
