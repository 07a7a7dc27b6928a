"""How much, how fast?"""
