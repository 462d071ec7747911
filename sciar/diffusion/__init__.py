"""Diffusion processes that know no network and no chemistry."""
