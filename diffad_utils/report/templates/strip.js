document.querySelectorAll(".strip").forEach((strip) => {
  const inputs = [...strip.querySelectorAll("input[type=range]")];
  const settings = [...strip.querySelectorAll(".setting")];
  const show = () => {
    let index = 0;  // settings stand in the order of the axes, the last one fastest
    for (const input of inputs) {
      index = index * (Number(input.max) + 1) + Number(input.value);
      const text = input.dataset.values.split(" ")[Number(input.value)];
      input.setAttribute("aria-valuetext", text);
      input.parentElement.querySelector("output").textContent = text;
    }
    settings.forEach((setting, i) => setting.classList.toggle("shown", i === index));
  };
  inputs.forEach((input) => input.addEventListener("input", show));
  strip.querySelector(".settings").removeAttribute("tabindex");  // nothing to scroll any more
  strip.classList.add("live");
  show();
});
