"""The demo: a video as a camera, a node that follows an object in it, pictures of what came."""
