"""How badly can a handwriting reader fail, if every pixel may be off by a little?"""
