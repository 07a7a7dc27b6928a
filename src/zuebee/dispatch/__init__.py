"""Which backend, when?"""
