// Put into a page before its own scripts: notes when pictures change and when sounds begin, all on the wall clock of
// this machine (milliseconds), which two browsers share.

(() => {
  const SIDE = 24;
  const MOST = 20000;
  const MOST_KEPT = 90;
  const WINDOW = 32768; // samples that are kept for a look: two thirds of a second
  const LOOK_MS = 20;
  const LOUD = 0.01; // -40 dB
  const SILENCE_S = 0.15;
  const wall = () => performance.timeOrigin + performance.now();
  const probe = {
    cameraFrames: [], // [when, a small grey picture in base64], of the own camera
    drawn: [], // the same, of what is drawn of the other person
    spoken: [], // [when], of the own microphone: the sound's first sample has reached the page
    heard: [], // [when], of the other person's sound: its first sample leaves the computer
    levels: [], // [when, dB] of every fifth of a second of it
    numbers: [], // [when, sent, received], as the page shows them
    outputLatencyMs: null,
    keepEvery: 0, // of the drawn pictures, one in so many is kept
  };
  window.kilocallProbe = probe;

  // Makes pictures small and grey.
  function shrink() {
    const canvas = new OffscreenCanvas(SIDE, SIDE);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high"; // takes all pixels into account
    return (picture) => {
      context.drawImage(picture, 0, 0, SIDE, SIDE);
      const { data } = context.getImageData(0, 0, SIDE, SIDE);
      let grey = "";
      for (let i = 0; i < data.length; i += 4) grey += String.fromCharCode(data[i + 1]);
      return btoa(grey);
    };
  }

  function note(list, item) {
    if (list.length < MOST) list.push(item);
  }

  const { drawImage } = CanvasRenderingContext2D.prototype;
  const remote = shrink();
  const kept = [];
  CanvasRenderingContext2D.prototype.drawImage = function (...all) {
    drawImage.apply(this, all);
    if (this.canvas.id !== "remote-picture") return;
    note(probe.drawn, [wall(), remote(all[0])]);
    if (!probe.keepEvery || probe.drawn.length % probe.keepEvery || kept.length >= MOST_KEPT) return;
    // The page notes the picture's capture time in the task that draws it.
    queueMicrotask(() => {
      const { width, height } = this.canvas;
      kept.push([window.kilocall.stats().captureUs, this.getImageData(0, 0, width, height)]);
    });
  };

  // The canvas's pixels at the moments kept, as [capture time in microseconds, PNG].
  probe.kept = () => kept.map(([captureUs, pixels]) => {
    const canvas = document.createElement("canvas");
    canvas.width = pixels.width;
    canvas.height = pixels.height;
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return [captureUs, canvas.toDataURL("image/png")];
  });

  const devices = navigator.mediaDevices;
  const getUserMedia = devices.getUserMedia.bind(devices);
  let microphone = null;
  devices.getUserMedia = async (wanted) => {
    const stream = await getUserMedia(wanted);
    if (wanted.video) watch(stream.clone());
    else microphone = stream.clone();
    return stream;
  };

  function watch(stream) {
    const video = document.createElement("video");
    const own = shrink();
    video.muted = true;
    video.srcObject = stream;
    const next = (now, { captureTime }) => {
      note(probe.cameraFrames, [performance.timeOrigin + (captureTime ?? now), own(video)]);
      video.requestVideoFrameCallback(next);
    };
    video.requestVideoFrameCallback(next);
    video.play();
  }

  // Looks at the samples since the look before, and tells when a sound begins after silence. `current` gives the stream,
  // which a page that has had to connect anew has another one of.
  function hearken(context, current, onset, level) {
    const analyser = new AnalyserNode(context, { fftSize: WINDOW });
    analyser.connect(context.silent);
    let stream = null;
    let source = null;
    const follow = () => {
      if (current() === stream || !current()) return;
      source?.disconnect();
      stream = current();
      source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
      source.connect(analyser);
    };
    follow();
    const samples = new Float32Array(WINDOW);
    let until = context.currentTime;
    let silentS = 0;
    let energy = 0;
    let count = 0;
    setInterval(() => {
      follow();
      analyser.getFloatTimeDomainData(samples);
      const end = context.currentTime;
      const fresh = Math.min(WINDOW, Math.round((end - until) * context.sampleRate));
      until = end;
      for (let i = WINDOW - fresh; i < WINDOW; i += 1) {
        const size = Math.abs(samples[i]);
        if (size > LOUD && silentS > SILENCE_S) onset(end - (WINDOW - i) / context.sampleRate);
        silentS = size > LOUD ? 0 : silentS + 1 / context.sampleRate;
        energy += size * size;
      }
      count += fresh;
      if (count < context.sampleRate / 5) return;
      level(10 * Math.log10(energy / count + 1e-12));
      energy = count = 0;
    }, LOOK_MS);
  }

  // A context whose clock runs: on a machine without a sound card the first one sometimes stands still.
  async function runningContext() {
    for (;;) {
      const context = new AudioContext();
      await Promise.race([context.resume(), new Promise((done) => { setTimeout(done, 1000); })]);
      const began = context.currentTime;
      await new Promise((done) => { setTimeout(done, 300); });
      if (context.currentTime > began) return context;
      context.close();
    }
  }

  // To be called once the page has its media.
  probe.listen = async () => {
    const context = await runningContext();
    context.silent = new GainNode(context, { gain: 0 });
    context.silent.connect(context.destination);
    if (microphone) {
      const now = (at) => wall() + 1000 * (at - context.currentTime);
      hearken(context, () => microphone, (at) => note(probe.spoken, [now(at)]), () => {});
    }
    const played = (at) => {
      const { contextTime, performanceTime } = context.getOutputTimestamp();
      return performance.timeOrigin + performanceTime + 1000 * (at - contextTime);
    };
    hearken(
      context,
      () => document.querySelector("audio").srcObject,
      (at) => {
        note(probe.heard, [played(at)]);
        probe.outputLatencyMs = played(at) - (wall() + 1000 * (at - context.currentTime));
      },
      (level) => note(probe.levels, [wall(), level]),
    );
  };

  addEventListener("DOMContentLoaded", () => {
    const cells = ["out-kbps", "in-kbps"].map((id) => document.getElementById(id));
    // The second of the two is written after the first, in one task.
    new MutationObserver(() => note(probe.numbers, [wall(), ...cells.map((cell) => cell.textContent)]))
      .observe(cells[1], { childList: true });
  });
})();
