"""The Gymnasium faces against Gymnasium's own checks and against MazeBatch."""

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs
from envs import MazeBatch, MazeSpec
from envs.gymnasium_env import MazeEnv, MazeVectorEnv
from envs.render import ansi, rgb

IDS = {
    "hrm_fast/FourRooms-v0": (11, 11),
    "hrm_fast/Corridors-v0": (11, 13),
    "hrm_fast/Room-v0": (9, 9),
}


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
def test_check_env_is_clean(name, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(name, render_mode=mode)
        check_env(env.unwrapped)
        env.close()


@pytest.mark.parametrize("name", IDS)
def test_make_and_make_vec(name):
    env, many = gymnasium.make(name), gymnasium.make_vec(name, num_envs=3)
    assert env.observation_space.shape == IDS[name]
    assert isinstance(many.unwrapped, MazeVectorEnv)
    assert many.observation_space.shape == (3, *IDS[name])
    assert many.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.reset(seed=1)[0].shape == IDS[name]
    obs, infos = many.reset(seed=1)
    assert obs in many.observation_space and infos == {}
    obs, reward, terminated, truncated, infos = many.step(many.action_space.sample())
    assert obs in many.observation_space and infos == {}
    assert reward.dtype == np.float32 and terminated.dtype == truncated.dtype == bool


def test_fields_of_the_spec_are_keyword_arguments():
    env = gymnasium.make("hrm_fast/Room-v0", size=5, actions=8, max_steps=7)
    assert env.observation_space.shape == (5, 5) and env.action_space.n == 8
    assert gymnasium.make("hrm_fast/Corridors-v0", size=21).observation_space.shape == (21, 21)
    own = gymnasium.make_vec("hrm_fast/Room-v0", num_envs=2, map=("..d..", "@.|.>"), closed_doors=1)
    assert own.reset(seed=0)[0].tobytes().decode() == "..#..@.|.>" * 2
    spec = MazeSpec(map="four-rooms", max_steps=9)
    assert MazeEnv(spec).maze == spec
    assert MazeVectorEnv(2, spec, p_change=0.5).maze.p_change == 0.5


def test_one_maze_walks_as_maze_0_of_a_batch():
    """Over many episodes: no random number is drawn twice or left out at an end."""
    spec = MazeSpec(max_steps=20, p_change=0.3)
    env, batch = MazeEnv(spec), MazeBatch(spec, 4, seed=11)
    obs, _ = env.reset(seed=11)
    expected, ends = batch.reset().numpy()[0], 0
    actions = np.random.default_rng(0).integers(4, size=(300, 4))
    for action in actions:
        assert (obs.ravel() == expected).all()
        obs, reward, terminated, truncated, info = env.step(action[0])
        step = batch.step(action)
        assert (obs.ravel() == step.final_obs[0].numpy()).all() and info == {}
        assert (terminated, truncated) == (step.terminated[0].item(), step.truncated[0].item())
        assert np.float32(reward) == step.reward[0].item()
        if terminated or truncated:
            obs, _ = env.reset()
            ends += 1
        expected = step.obs[0].numpy()
    assert ends >= 15


def test_an_ended_episode_must_be_reset():
    env = MazeEnv(MazeSpec(map="room", size=5, max_steps=1))
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    assert env.step(0)[3]
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    env.step(0)


def test_same_step_autoreset():
    """Every row of every step equals MazeBatch's; the last observations are handed over."""
    spec = MazeSpec(map="room", size=4, max_steps=6)
    many, batch = MazeVectorEnv(5, spec), MazeBatch(spec, 5, seed=2)
    obs, _ = many.reset(seed=2)
    assert (obs.reshape(5, -1) == batch.reset().numpy()).all()
    rng, ends = np.random.default_rng(1), 0
    for _ in range(60):
        actions = rng.integers(4, size=5)
        obs, reward, terminated, truncated, infos = many.step(actions)
        step = batch.step(actions)
        assert (obs.reshape(5, -1) == step.obs.numpy()).all()
        assert (reward == step.reward.numpy()).all()
        assert (terminated == step.terminated.numpy()).all()
        assert (truncated == step.truncated.numpy()).all()
        ended = terminated | truncated
        if not ended.any():
            assert infos == {}
            continue
        assert (infos["_final_obs"] == ended).all() and (infos["_final_info"] == ended).all()
        assert infos["final_info"] == {}
        for i, final in enumerate(infos["final_obs"]):
            assert (final is None) == (not ended[i])
            if ended[i]:
                assert (final.ravel() == step.final_obs[i].numpy()).all()
                assert (ord(">") not in final) == terminated[i]  # the agent stands on the goal
        ends += ended.sum()
    assert ends > 30


def test_layout_of_infos_is_gymnasiums_own():
    """The same mazes through SyncVectorEnv in its same-step mode, up to the first end."""
    spec = MazeSpec(map="room", size=4, max_steps=6)
    ours = MazeVectorEnv(1, spec)
    theirs = gymnasium.vector.SyncVectorEnv(
        [lambda: MazeEnv(spec)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert (ours.reset(seed=5)[0] == theirs.reset(seed=5)[0]).all()
    for action in np.random.default_rng(3).integers(4, size=(50, 1)):
        *ours_seen, ours_infos = ours.step(action)
        *theirs_seen, theirs_infos = theirs.step(action)
        for one, other in zip(ours_seen, theirs_seen, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
        assert ours_infos.keys() == theirs_infos.keys()
        for key, value in ours_infos.items():
            assert type(value) is type(theirs_infos[key])
            if key != "final_info":
                assert value.dtype == theirs_infos[key].dtype
                assert value.shape == theirs_infos[key].shape


def test_seeding():
    for env in (MazeEnv(), MazeVectorEnv(3)):

        def boards(env, seed):
            return [env.reset(seed=s)[0].tobytes() for s in (seed, None, None)]

        first = boards(env, 7)
        assert len(set(first)) == 3
        assert boards(env, 7) == first
        assert boards(env, 8) != first
        assert boards(type(env)(), None) != boards(type(env)(), None)  # from the system's entropy


def test_what_is_returned_is_not_reused():
    env = MazeVectorEnv(2, map="room", size=3)
    obs, _ = env.reset(seed=0)
    kept = obs.copy()
    for _ in range(20):
        after = env.step([0, 1])[0]
        assert (obs == kept).all()
        obs, kept = after, after.copy()


@pytest.mark.xfail(
    tuple(map(int, gymnasium.__version__.split(".")[:2])) < (1, 4),
    reason="before 1.4 Gymnasium's wrapper took a reset in the same step for a step of its own",
    strict=True,
)
def test_episode_statistics_wrapper():
    env = gymnasium.make_vec("hrm_fast/Room-v0", num_envs=4, size=3, max_steps=5)
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    env.reset(seed=0)
    env.action_space.seed(0)
    returns, lengths, episodes = np.zeros(4), np.zeros(4, int), 0
    for _ in range(40):
        _, reward, terminated, truncated, infos = env.step(env.action_space.sample())
        returns, lengths = returns + reward, lengths + 1
        ended = terminated | truncated
        if ended.any():
            np.testing.assert_allclose(infos["episode"]["r"][ended], returns[ended], atol=1e-6)
            assert (infos["episode"]["l"][ended] == lengths[ended]).all()
            returns[ended], lengths[ended] = 0, 0
            episodes += ended.sum()
    assert env.episode_count == episodes >= 32


def test_rendering():
    env = MazeEnv(map="four-rooms", render_mode="ansi")
    obs, _ = env.reset(seed=0)
    assert env.render() == ansi(obs, env.maze)
    obs = env.step(1)[0]
    assert env.render() == ansi(obs, env.maze)
    many = MazeVectorEnv(2, map="corridors", render_mode="rgb_array")
    obs, _ = many.reset(seed=0)
    assert all((a == rgb(b, many.maze)).all() for a, b in zip(many.render(), obs, strict=True))
    assert MazeEnv().render() is None
    with pytest.raises(ResetNeeded):
        MazeEnv(render_mode="ansi").render()


def test_at_an_end_the_last_board_is_rendered():
    env = MazeEnv(map=("@>",), render_mode="ansi")
    env.reset(seed=0)
    _, reward, terminated, *_ = env.step(1)
    assert (reward, terminated, env.render()) == (1.0, True, "<@")
    assert env.reset()[0].tobytes() == b"@>"


def test_pickling_the_spec_of_a_made_environment():
    env = gymnasium.make("hrm_fast/Corridors-v0", p_change=0.2)
    again = gymnasium.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.unwrapped.maze == env.unwrapped.maze
    assert env.reset(seed=3)[0].tobytes() == again.reset(seed=3)[0].tobytes()


def reset_env(**fields):
    env = MazeEnv(**fields)
    env.reset(seed=0)
    return env


def reset_vector_env(**fields):
    env = MazeVectorEnv(3, **fields)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: reset_env().step(4), "action is 4: expected an integer from 0 to 3"),
        (lambda: reset_env().step(-1), "action is -1: "),
        (lambda: reset_env().step(1.0), "action is 1.0: "),
        (lambda: reset_env().step(None), "action is None: "),
        (lambda: reset_env(actions=8).step(8), "from 0 to 7"),
        (lambda: reset_vector_env().step([0, 1, 4]), "actions[2] is 4: "),
        (lambda: reset_vector_env().step([0, 1]), "shape (2,): expected (3,)"),
        (lambda: reset_vector_env().step([0.0, 1.0, 2.0]), "float64"),
        (lambda: reset_vector_env().reset(seed=[1, 2, 3]), "seed is [1, 2, 3]: expected one"),
        (lambda: reset_vector_env().reset(options={"reset_mask": 0}), "reset_mask"),
        (lambda: MazeVectorEnv(0), "num_envs is 0: "),
        (lambda: MazeEnv(render_mode="human"), "render_mode is 'human': expected 'ansi'"),
        (lambda: MazeEnv(colour=1), "colour is no field of MazeSpec: expected one of map, "),
        (lambda: MazeEnv(p_change=1.5), "p_change is 1.5: expected 0 to 1"),
        (lambda: gymnasium.make("hrm_fast/Room-v0", size=1), "size is 1: "),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_refused_action_steps_nothing():
    env = reset_vector_env()
    with pytest.raises(ValueError):
        env.step([0, 1, 9])
    other = reset_vector_env()
    for _ in range(5):
        assert (env.step([0, 1, 2])[0] == other.step([0, 1, 2])[0]).all()


def test_importing_envs_registers_the_ids():
    assert envs and all(name in gymnasium.registry for name in IDS)
