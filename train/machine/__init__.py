"""What a machine gives: its devices, their memory, CUDA graphs, and other machines."""
