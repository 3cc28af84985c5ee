"""The views of a study pooled inside the network, by mean, maximum or gated attention, and trained on the study's label."""

import torch
from torch import nn

from mura_fastai.errors import InputError


class MeanViews(nn.Module):
    "The mean over a study's views."

    def __init__(
        self,
        n_features: int,  # unused: every way to pool is made so
    ):
        super().__init__()

    def forward(
        self,
        h: torch.Tensor,  # N x V x n_features
        mask: torch.Tensor,  # N x V, True for a view and False for padding
    ) -> tuple[torch.Tensor, torch.Tensor]:  # N x n_features; N x V weights of the views
        "Every view weighs the same."
        weights = mask.to(h.dtype) / mask.sum(1, keepdim=True)
        return (weights[..., None] * h).sum(1), weights


class MaxViews(MeanViews):
    "The largest value of each feature over a study's views."

    def forward(self, h: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        "A view weighs the share of features that it gives; those that several give alike are divided among them."
        masked = h.masked_fill(~mask[..., None], -torch.inf)
        largest = masked.amax(1, keepdim=True)
        given = (masked == largest).float()
        return largest[:, 0], (given / given.sum(1, keepdim=True)).mean(2)


class GatedAttention(nn.Module):
    """The mean weighted by what the views show: Ilse, Tomczak and Welling 2018 (arXiv 1802.04712), equations 7 and 9.

    View k of the features h weighs softmax over k of w (tanh(V h_k) * sigmoid(U h_k)); w, V and U are learned.
    """

    def __init__(
        self,
        n_features: int,  # of each view
        hidden: int = 128,  # rows of V and U, as many as in the paper
    ):
        super().__init__()
        self.content, self.gate = nn.Linear(n_features, hidden), nn.Linear(n_features, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)  # a bias would add the same to all views

    def forward(
        self,
        h: torch.Tensor,  # N x V x n_features
        mask: torch.Tensor,  # N x V, True for a view and False for padding
    ) -> tuple[torch.Tensor, torch.Tensor]:  # N x n_features; N x V weights: 0 for padding, their sum 1
        scores = self.score(torch.tanh(self.content(h)) * torch.sigmoid(self.gate(h)))[..., 0].float()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
        return (weights.to(h.dtype)[..., None] * h).sum(1), weights


POOLINGS = {"mean": MeanViews, "max": MaxViews, "attention": GatedAttention}


class StudyNet(nn.Module):
    """A network of single images that answers for whole studies: their views' features are pooled, then classified.

    Padding costs nothing and changes nothing: the body is fed real views alone. The order of the views does not matter.
    """

    def __init__(
        self,
        net: nn.Module,  # with `features(x, region)`, `n_features` and `classifier`, as the networks of this package
        pool: str = "attention",  # mean, max or attention
    ):
        super().__init__()
        if pool not in POOLINGS:
            raise InputError(f"views are not pooled by {pool!r}; choose one of {', '.join(POOLINGS)}")
        lacks = [name for name in ("features", "n_features", "classifier") if not hasattr(net, name)]
        if lacks:
            kind = type(net).__name__
            raise InputError(f"{kind}: has no {lacks[0]}; views are pooled between features and classifier")
        self.net, self.pool = net, POOLINGS[pool](net.n_features)
        self.keep_attention, self.attention = False, None

    def forward(
        self,
        x: torch.Tensor,  # N x V x C x H x W; or N x C x H x W, studies of one view
        region: torch.Tensor | None = None,  # N
        views: torch.Tensor | None = None,  # N x V, True for a view; or N, how many of the V are views; None: all
    ) -> torch.Tensor:  # N x num_classes logits
        """The answer for each study; each has a view at least.

        The weights of the views, N x V, stay in `attention` where `keep_attention` is set."""
        x = x[:, None] if x.ndim == 4 else x
        n, most = x.shape[:2]
        if views is None:
            mask = torch.ones((n, most), dtype=torch.bool, device=x.device)
        else:
            mask = views.bool() if views.ndim == 2 else torch.arange(most, device=x.device) < views[:, None]
        real = mask.flatten().nonzero()[:, 0]
        seen = x.flatten(0, 1).index_select(0, real)
        of = None if region is None else region.index_select(0, real // most)
        features = self.net.features(seen, of)
        # Padding is zero: minus infinity or what a body makes of black would reach gradients as NaN or as noise.
        h = features.new_zeros((n * most, features.shape[1])).index_copy(0, real, features).view(n, most, -1)
        pooled, weights = self.pool(h, mask)
        self.attention = weights.detach() if self.keep_attention else None
        return self.net.classifier(pooled)

    def param_groups(self) -> list[list[nn.Parameter]]:
        "Those of the network of images; the pooling learns with its head."
        own = self.net.param_groups() if hasattr(self.net, "param_groups") else [list(self.net.parameters())]
        return [*own[:-1], [*own[-1], *self.pool.parameters()]]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        "Those of the network of images, where it has any; the pooling learns with its head."
        own = self.net.layer_groups()
        return [*own[:-1], [*own[-1], *self.pool.parameters()]]
