"""What the stages are trained on, how, and what the first one makes."""

import numpy as np
import torch

from zoo.nn.ema import MovingAverage


class Slices:
    """Slices with tissue, padded or cropped to the network's size."""

    def __init__(self, config, cohort, made=None):
        self.config = config
        self.places = [
            (scan, index)
            for scan in cohort.scans
            for index in range(scan.shape[0])
            if (scan.images[index, 0] > -0.9).mean() > 0.1
        ]

    def __len__(self):
        return len(self.places)

    def example(self, index, rng):
        scan, number = self.places[index]
        return {"image": centred(np.asarray(scan.images[number, 0], np.float32), self.config.size)[None]}


def centred(plane, size):
    """Pad or crop a slice to `size`, keeping its middle."""
    missing = [max(want - have, 0) for have, want in zip(plane.shape, size, strict=True)]
    padded = np.pad(plane, [(count // 2, count - count // 2) for count in missing], constant_values=-1)
    row, column = ((have - want) // 2 for have, want in zip(padded.shape, size, strict=True))
    return padded[row : row + size[0], column : column + size[1]]


class ReconstructionMaker:
    """Makes slices and their reconstructions."""

    def __init__(self, config, model, cohort, made):
        self.model = model
        self.slices = Slices(config, cohort)

    def __len__(self):
        return len(self.slices)

    def subject(self, index):
        scan, _ = self.slices.places[index]
        return scan.subject

    def make(self, indices, random):
        images = np.stack([self.slices.example(index, None)["image"] for index in indices])
        image = torch.from_numpy(images).to(random.device)
        mean, _ = self.model.autoencoder.encoder(image).chunk(2, dim=1)
        return {"image": image, "reconstruction": self.model.autoencoder.decoder(mean)}


class Reconstructions:
    """What was made of the subjects of a cohort."""

    def __init__(self, config, cohort, made):
        self.made = made["autoencoder"]
        subjects = dict.fromkeys(scan.subject for scan in cohort.scans)
        self.indices = np.concatenate([self.made.of(subject) for subject in subjects])

    def __len__(self):
        return len(self.indices)

    def example(self, index, rng):
        item = self.indices[index]
        return {name: np.array(self.made[name][item]) for name in ("image", "reconstruction")}


class StageTrainer:
    """Adam on one module, and a moving average of it; a child says what the loss is."""

    def __init__(self, config, module, fabric):
        self.config, self.fabric, self.module = config, fabric, module
        self.average = MovingAverage(module, half_life_images=200)
        self.ema = self.average.model
        self.network, self.optimiser = fabric.setup(module, torch.optim.Adam(module.parameters(), config.learning_rate))
        self.images_seen = 0

    def step(self, batch, random):
        loss = self.loss(self.network, batch, random).mean()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad()
        batch_size = len(batch["image"]) * self.fabric.world_size
        self.images_seen += batch_size
        self.average.update(self.images_seen, batch_size)
        return {"loss/error": loss.detach()}

    def validate(self, batch, random):
        return {"error": self.loss(self.ema, batch, random)}

    def preview(self, batch, random):
        pictures = torch.cat([batch["image"], self.remade(batch, random)], dim=1)
        return pictures.clamp(-1, 1).transpose(2, 3).flip(2)

    def state_dict(self):
        return {
            "module": self.module.state_dict(),
            "average": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "images_seen": self.images_seen,
        }

    def load_state_dict(self, state):
        self.module.load_state_dict(state["module"])
        self.ema.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.images_seen = state["images_seen"]


class AutoencoderTrainer(StageTrainer):
    """The first stage."""

    def __init__(self, config, model, fabric):
        super().__init__(config, model.autoencoder, fabric)

    def _noise(self, random):
        return random.normal((self.config.autoencoder.latent,))

    def loss(self, network, batch, random):
        image = batch["image"]
        again, mean, log_variance = network(image, self._noise(random))
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean(1) / 2
        return (again - image).square().flatten(1).mean(1) + self.config.autoencoder.divergence * divergence

    def remade(self, batch, random):
        return self.ema(batch["image"], self._noise(random))[0]


def fit_prior(config, model, examples, rng):
    """Fit the normal distribution of the latents of all slices."""
    device = model.prior.mean.device
    images = np.stack([examples.example(index, rng)["image"] for index in range(len(examples))])
    batches = torch.from_numpy(images).split(config.training.batch_size)
    encoded = torch.cat([model.autoencoder.encoder(batch.to(device)) for batch in batches])
    mean, log_variance = encoded.chunk(2, dim=1)
    covariance = mean.T.cov() + torch.diag(log_variance.exp().mean(0))
    model.prior.mean.copy_(mean.mean(0))
    model.prior.factor.copy_(torch.linalg.cholesky(covariance))


class RefinerTrainer(StageTrainer):
    """The last stage: what a reconstruction of an unseen slice lacks."""

    def __init__(self, config, model, fabric):
        super().__init__(config, model.refiner, fabric)

    def loss(self, network, batch, random):
        lacking = batch["image"] - batch["reconstruction"]
        return (network(batch["reconstruction"]) - lacking).square().flatten(1).mean(1)

    def remade(self, batch, random):
        return torch.cat([batch["reconstruction"], batch["reconstruction"] + self.ema(batch["reconstruction"])], dim=1)
