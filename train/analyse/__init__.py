"""What runs leave, as tables and figures; and where z goes while the model thinks."""
