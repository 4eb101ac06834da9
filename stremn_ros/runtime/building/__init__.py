"""Files that a runtime needs: made in processes of their own, kept in a cache."""
