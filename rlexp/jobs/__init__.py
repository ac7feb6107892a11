"""Jobs, and the earlier runs that they start from (init_from) or extend (resume=extend)."""
