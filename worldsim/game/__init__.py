"""Games as recordings and worlds know them: any Gymnasium environment."""
