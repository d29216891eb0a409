// The stream's speech, kept beside the pictures: they have the clock, the sound follows.

const APART_S = 0.12; // further from the picture than this it is put right

export class Sound {
  constructor(audio, button) {
    this.audio = audio;
    this.button = button;
    this.show();
    button.onclick = () => {
      audio.muted = !audio.muted;
      this.show();
    };
  }

  // A stream with speech at this address; none with null.
  open(address) {
    this.button.hidden = !address;
    if (address && !this.audio.src) this.audio.src = address;
  }

  // The picture of `us` is shown, at this speed, or stands.
  follow(us, { playing, speed }) {
    const { audio } = this;
    if (!audio.src) return;
    if (!playing || us / 1e6 >= (audio.duration || Infinity)) {
      audio.pause();
      return;
    }
    audio.playbackRate = speed;
    if (Math.abs(audio.currentTime - us / 1e6) > APART_S * Math.max(1, speed)) audio.currentTime = us / 1e6;
    // A browser lets a page be heard only once somebody has pressed something in it.
    if (audio.paused) {
      audio.play().catch((error) => {
        if (error.name !== "NotAllowedError") return;
        audio.muted = true;
        this.show();
      });
    }
  }

  show() {
    this.button.textContent = this.audio.muted ? "Sound on" : "Sound off";
    this.button.setAttribute("aria-pressed", String(this.audio.muted));
  }
}
