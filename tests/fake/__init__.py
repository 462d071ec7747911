"""A model family without weights worth the name, so that the front door is tested alone."""
