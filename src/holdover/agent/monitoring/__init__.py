"""What an agent shows of itself: metrics, and whether it lives and is ready."""
