"""Planning, journaling and scheduling of runs over folders."""
