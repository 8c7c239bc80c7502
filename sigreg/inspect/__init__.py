"""`python -m sigreg inspect FILE`: what is wrong with the embeddings of a file, in words.

    files      read .npy, .npz, .pt and .safetensors in pieces, or say in one line why not
    report     the diagnosis as text and as JSON, one file or two side by side
    plot       worst slices, spectrum, lengths and quantiles, each against N(0, I)
    probes     k-NN and a linear probe, where labels are given
    cli        the command line

The findings themselves are `sigreg.diagnostics.diagnose`.
"""
