"""What all panels share: frame, threads, figures, safe text, and what became of every edit."""
