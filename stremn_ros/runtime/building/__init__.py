"""Files that a runtime needs: made in separate processes, kept in a cache."""
