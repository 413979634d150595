"""The model class for networks that train against a discriminator.

Shape shorthand: b batch, t frames, h and w height and width of the LQ frame, s the scale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.models.perceptual import as_images
from basicsr_plugins.models.vsr_model import VSRModel
from basicsr_plugins.option_file import OPTIMIZER, call_keys, losses, of_type
from basicsr_plugins.option_schema import Key, Schema

GAN_TYPE = Key('str', required=True, choices=('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'))
GAN_LOSS = of_type('GAN loss', lambda: {'GANLoss': losses()['GANLoss']}, lambda cls: call_keys(cls, gan_type=GAN_TYPE))


@MODEL_REGISTRY.register()
class VSRGANModel(VSRModel):
    """As `VSRModel`, with the toolbox's GAN loss; a discriminator of single images sees each frame.

    The losses of both networks are those before either takes its step. Both take it or, where a loss or a gradient of
    one is not finite, neither; `grad_clip` bounds each network's own norm, `accumulate` computes both in parts. `amp`,
    `checkpointing` and `compile` are for the generator: discriminator and VGG compute in float32.

    With `accumulate` gradients are those of the whole batch but for spectral normalisation, which goes one iteration of
    its power method further whenever the discriminator runs.

    Args:
        opt: All options. Beside those of `VSRModel`: `network_d`, `train: optim_d`, `train: gan_opt` (GANLoss, against
            plain GT whatever `sharpen_gt` says), `path: pretrain_network_d`, `param_key_d`, `strict_load_d`.

    Raises:
        InputError: As `VSRModel`.
    """

    more_networks = ('network_d',)
    option_keys: ClassVar[Mapping[str, Schema]] = {
        **VSRModel.option_keys,
        'train': {
            **VSRModel.option_keys['train'],
            'optim_d': OPTIMIZER,
            'gan_opt': Key('dict', required=True, keys=GAN_LOSS),
        },
        'path': {
            **VSRModel.option_keys['path'],
            'pretrain_network_d': Key('str | None'),
            'param_key_d': Key('str', default='params'),
            'strict_load_d': Key('bool', default=True),
        },
    }

    def init_training_settings(self) -> None:
        """As `VSRModel`'s, after the discriminator is built and loaded."""
        path = self.opt['path']
        self.net_d = self.model_to_device(build_network(self.opt['network_d']))
        self.print_network(self.net_d)
        if path.get('pretrain_network_d') is not None:
            key = path.get('param_key_d', 'params')
            self.load_network(self.net_d, path['pretrain_network_d'], path.get('strict_load_d', True), key)
        self.net_d.train()
        self.cri_gan = build_loss(self.opt['train']['gan_opt']).to(self.device)
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """As the toolbox's, and one for the discriminator."""
        super().setup_optimizers()
        options = dict(self.opt['train']['optim_d'])
        self.optimizer_d = self.get_optimizer(options.pop('type'), self.net_d.parameters(), **options)
        self.optimizers.append(self.optimizer_d)

    def save(self, epoch: int, current_iter: int) -> None:
        """The discriminator, then what `VSRModel` saves: the training state last, for it says that all is there."""
        self.save_network(self.net_d, 'net_d', current_iter)
        super().save(epoch, current_iter)

    def _trained(self) -> list[nn.Module]:
        return [self.net_g, self.net_d]

    def _losses(self, output, lq, gt, share) -> OrderedDict[str, Tensor]:
        """The generator's: those of `VSRModel`, and what the discriminator says of its frames."""
        losses = super()._losses(output, lq, gt, share)
        net_d = self.get_bare_model(self.net_d).requires_grad_(False)  # it learns nothing from this loss
        losses['l_gan'] = share * self.cri_gan(net_d(as_images(self.output)), True, is_disc=False)
        return losses

    def _backward_part(self, lq: Tensor, gt: Tensor, share: float) -> OrderedDict[str, Tensor]:
        losses = super()._backward_part(lq, gt, share)
        self.net_d.requires_grad_(True)
        for name, frames, is_real in (('l_d_real', gt, True), ('l_d_fake', self.output.detach(), False)):
            losses[name] = share * self.cri_gan(self.net_d(as_images(frames)), is_real, is_disc=True)
            if self._may_go_back(losses[name]):
                losses[name].backward()
        return losses
