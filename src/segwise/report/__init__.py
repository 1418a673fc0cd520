"""Records into one self-contained HTML page; reads records only."""
