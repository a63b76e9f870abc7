"""The world of textures: captioned 64x64 patterns in two colours, a v_prediction teacher for them,
and a judge that scores images.
"""
